"""Identifiers planted in every attribute of a DICOM file that has room for words.

Where to plant follows from the standard alone: rows of PS3.15 table E.1-1 as typed here, and all
names, dates, free texts and UIDs of pydicom's dictionary. Nothing is taken from what is tested.
"""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path

import pydicom
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

PATIENT, DATE = "MRN-0042-77", datetime.date(2024, 5, 31)
PLANTED_WORD = "PLNT"
_COUNTER = itertools.count(10**6)


def held(keyword: str) -> DataElement:
    """An empty element of a keyword."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    vr = dictionary_VR(tag).split(" or ")[0]
    return DataElement(tag, vr, Sequence() if vr == "SQ" else None)


# PS3.15 table E.1-1: short texts, which by their type alone could be harmless.
_ROWS = """
AccessionNumber AdmissionID AdmittingDiagnosesDescription AcquisitionDeviceProcessingDescription
Allergies BranchOfService CassetteID ChannelLabel ClinicalTrialCoordinatingCenterName
ClinicalTrialProtocolEthicsCommitteeApprovalNumber ClinicalTrialProtocolEthicsCommitteeName
ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSeriesDescription
ClinicalTrialSeriesID ClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialSponsorName
ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ClinicalTrialTimePointID
ConfidentialityConstraintOnPatientDataDescription ContainerComponentID ContainerDescription
ContainerIdentifier ContrastBolusAgent CountryOfResidence CurrentPatientLocation DestinationAE
DetectorID DeviceDescription DeviceLabel DeviceSerialNumber DischargeDiagnosisDescription
DistributionAddress EntityLabel EntityLongLabel EntityName EthnicGroup
FillerOrderNumberImagingServiceRequest GantryID GeneratorID HumanPerformerOrganization
InstitutionName InstitutionalDepartmentName InsurancePlanIdentification InterpretationIDIssuer
IssuerOfAdmissionID IssuerOfPatientID IssuerOfServiceEpisodeID MedicalAlerts MedicalRecordLocator
MilitaryRank ModifiedImageDescription ModifyingSystem Occupation OrderCallbackPhoneNumber
OrderEntererLocation Originator OtherPatientIDs PatientAddress PatientInstitutionResidence
PatientReligiousPreference PatientState PatientTelephoneNumbers PatientTransportArrangements
PerformedLocation PerformedProcedureStepDescription PerformedProcedureStepID
PerformedStationAETitle PerformedStationName PersonTelephoneNumbers
PlacerOrderNumberImagingServiceRequest PlateID PreMedication ProtocolName ROIName
ROIObservationLabel RTPlanLabel RTPlanName RTPrescriptionLabel ReasonForStudy
ReasonForTheImagingServiceRequest ReasonForTheRequestedProcedure ReceivingAE
ReferringPhysicianTelephoneNumbers RegionOfResidence RequestedContrastAgent
RequestedProcedureDescription RequestedProcedureID RequestedProcedureLocation
RequestedSeriesDescription RequestingAE RequestingService ResponsibleOrganization ResultsIDIssuer
RetrieveAETitle ScheduledPatientInstitutionResidence ScheduledProcedureStepDescription
ScheduledProcedureStepID ScheduledProcedureStepLocation ScheduledStationAETitle
ScheduledStationName ScheduledStudyLocation ScheduledStudyLocationAETitle
SecondaryCaptureDeviceID SeriesDescription ServiceEpisodeDescription ServiceEpisodeID
SlideIdentifier SourceManufacturer SourceSerialNumber SpecialNeeds SpecimenAccessionNumber
SpecimenIdentifier SpecimenShortDescription StationAETitle StationName StructureSetLabel
StructureSetName StudyDescription StudyID StudyIDIssuer TelephoneNumberTrial TextString
TreatmentMachineName UserContentLabel UserContentLongLabel VerifyingOrganization
"""
_BY_TYPE = ("PN", "LT", "ST", "UT", "UC", "UI", "DA", "DT")


def plantable() -> list[int]:
    """Attributes that may name someone."""
    rows = _ROWS.split()
    typed = {tag for keyword in rows if (tag := tag_for_keyword(keyword)) is not None}
    assert len(typed) == len(rows) > 100
    by_type = {tag for tag, (vr, *_) in DicomDictionary.items() if vr in _BY_TYPE}
    return [
        tag
        for tag in sorted(typed | by_type)
        if keyword_for_tag(tag)
        and tag >> 16 > 2
        and "SOPClassUID" not in keyword_for_tag(tag)
        and keyword_for_tag(tag) != "PatientID"
    ]


def plant(file: Path, tags: list[int], level: int) -> dict[str, str]:
    """Plant a word of its own in each attribute, `level` sequences deep.

    Returns:
        Planted word -> keyword of where it stands.
    """
    dataset = pydicom.dcmread(file)
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]  # OCR leaves it alone
    target: Dataset = dataset
    for keyword in ("SourceImageSequence", "PurposeOfReferenceCodeSequence")[:level]:
        inner = Dataset()
        setattr(target, keyword, Sequence([inner]))
        target = inner
    words = {}
    for tag in tags:
        number, vr = next(_COUNTER), dictionary_VR(tag)
        word = f"{PLANTED_WORD}{number}"
        if vr == "UI":
            word = f"1.2.99.{number}"
        elif vr in ("DA", "DT"):
            day = datetime.date(1900, 1, 1) + datetime.timedelta(days=number % 20000)
            word = f"{day:%Y%m%d}" + ("101112.131415" if vr == "DT" else "")
        target[Tag(tag)] = DataElement(tag, vr, word)
        if vr != "DA":  # a day may by chance be another one, shifted
            words[word] = f"{keyword_for_tag(tag)} at level {level}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(file)
    content = file.read_bytes()
    assert all(word.encode() in content for word in words)
    return {**words, PATIENT: "PatientID"}
